"""What is written for people, opened in a real browser."""
