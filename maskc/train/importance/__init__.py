"""How important each mask entry is."""
