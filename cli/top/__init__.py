"""The full-screen dashboard: pure blocks of one screen, and a thin Textual program that puts them on it."""
