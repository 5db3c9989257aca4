"""Whether maps are true: against boxes, against what hiding a place does, against maps that know nothing."""
