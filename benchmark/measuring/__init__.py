"""What measures: time, memory, FLOPs and the machine, on which text, whatever is measured."""
