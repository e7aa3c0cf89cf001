"""Independent panels of the compare tab: each builds its components where it is called, and connects their events."""
