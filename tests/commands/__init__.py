"""What the commands print, whatever the width of the terminal and whatever the file lacks."""
