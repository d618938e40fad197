"""One prompt's measurement: the methods that are compared, a round of them, the machine."""
