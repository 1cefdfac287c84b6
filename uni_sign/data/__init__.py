"""Files to arrays: poses, labels, descriptions, text."""
