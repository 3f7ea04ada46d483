"""What is compared: each contender trains, and two of them also translate."""
