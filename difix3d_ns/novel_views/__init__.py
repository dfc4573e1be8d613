"""Novel views: their targets, their walk there, the schedule of fixes, and how one fix is made."""
