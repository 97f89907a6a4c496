"""`maskc train`."""

from maskc.cli.train.command import train as train
