"""Teachers and students: one family a file. Import a family only where torch is wanted."""
