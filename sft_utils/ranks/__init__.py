"""Several ranks: one run as data, its launch, what each rank did and left behind."""
