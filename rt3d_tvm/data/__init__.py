"""Clips: read from video files, or made up for a demonstration."""
