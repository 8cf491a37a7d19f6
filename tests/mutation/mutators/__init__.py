"""All faults that are planted; one file per group of the catalogue."""

from tests.mutation.mutators import (
    dryrun,
    exported,
    judged,
    labels,
    packing,
    rawdata,
    settings,
    templates,
)

MUTATORS = (
    *rawdata.MUTATORS,
    *templates.MUTATORS,
    *labels.MUTATORS,
    *packing.MUTATORS,
    *settings.MUTATORS,
    *dryrun.MUTATORS,
    *exported.MUTATORS,
    *judged.MUTATORS,
)
