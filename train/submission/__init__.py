"""Official submission files: filled in from predictions, and read again before they are believed."""
