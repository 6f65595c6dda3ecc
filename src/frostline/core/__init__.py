"""The ideas, pure: torch and numpy only."""
