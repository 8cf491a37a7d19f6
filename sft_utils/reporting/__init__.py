"""What recorded runs claim, and the page that 11 makes of it."""
