"""Scores the float SavedModel and every variant on the same examples, gates each variant and blesses the best."""
