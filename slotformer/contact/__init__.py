"""Contact prediction: labelled slots, readouts, their fitting and scoring, and the answers of people."""
