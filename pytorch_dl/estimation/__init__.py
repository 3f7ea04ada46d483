"""What a training will take: counted, and measured on this machine by its first steps."""
