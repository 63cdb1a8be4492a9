"""The pack's own wire types."""

from comfy_api.latest import io

E2GAN = io.Custom("HOTPATH_E2GAN")  # engine.e2gan.network.E2GAN: a base with the concepts chained onto it
PAIRS = io.Custom("HOTPATH_PAIRS")  # training.pairs.PairSet: pictures before and after an edit
CONCEPT = io.Custom("HOTPATH_CONCEPT")  # engine.e2gan.concept.Concept: a look
REPORT = io.Custom("HOTPATH_REPORT")  # engine.probe.report.Report, or a recording that becomes one: both have current()
