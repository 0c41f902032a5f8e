"""One file a fault: validated data and a pure plan."""
