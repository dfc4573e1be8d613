"""Novel views: where they go, when they are fixed, and one fix from render to pseudo view."""
