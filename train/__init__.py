"""Stage 2: feature cache + labels -> trained heads and a report. Never opens a video."""
