"""The verdict as text, files and pictures."""
