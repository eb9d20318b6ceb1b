"""Will they touch? Labelled slots, the readouts that answer, how they are fitted and scored, what people answered."""
