"""What is judged, and what it says of itself."""
