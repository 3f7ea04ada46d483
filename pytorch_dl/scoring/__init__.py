"""What a score is, how far chance moves it, and whether two differ by more than luck."""
