"""What is wrong in a results folder, and its removal where nothing is lost by it."""
