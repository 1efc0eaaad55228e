"""What people look at: server-rendered, alive by one small script, readable without it."""
