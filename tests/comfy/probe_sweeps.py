"""Cases of Throughput Sweep with a model, of Cancel in it, and of folders that neither it nor Probe Report can write to."""

import comfy.latent_formats
import comfy.model_management as mm
import comfy.utils
from hotpath.tests.comfy.probe_world import BASE, MODEL, POSITIVE, call, case, fresh, host, sample

SMALL = {"sides": "64", "batches": "1", "devices": "auto", "precisions": "auto", "seconds": 0.1, "samples": 5, "rerun": True}


def swept(workloads, **inputs):
    return call("ThroughputSweep", **{**SMALL, "workloads": workloads, **inputs})[0]


# ---- a model


def sweep():
    reports = [swept("model", batches="1, 2", **inputs) for inputs in ({"model": MODEL, "positive": POSITIVE}, {})]
    return [[[entry.status, len(entry.samples_ms), entry.note] for entry in report.measurements] for report in reports]


def unknown_latent():
    model = MODEL.clone()
    model.add_object_patch("latent_format", type("Odd", (), {"latent_channels": 4, "latent_dimensions": 2})())
    report = swept("model", model=model, positive=POSITIVE)
    return [[entry.status, entry.note] for entry in report.measurements]


def cells():
    known = {name: getattr(comfy.latent_formats, name, None) is not None for name in host.CELLS}
    return [known, host.cell(MODEL)]


case("sweep", sweep)
case("unknown latent", unknown_latent)
case("cells", cells)

# ---- Cancel, and what is kept


def cancelled():
    mm.interrupt_current_processing(True)
    swept("nin", devices="cpu")


def cut_short():
    """Cancel comes while the first of two points is shown as done."""
    comfy.utils.set_progress_bar_global_hook(lambda *_, **__: mm.interrupt_current_processing(True))
    try:
        swept("nin", sides="64, 128", devices="cpu")
    except mm.InterruptProcessingException:
        report = host.saved_report("interrupted_sweep")
        return [[(entry.facts["side_px"], entry.status) for entry in report.measurements], list(report.notes)]
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
        mm.interrupt_current_processing(False)


def read_only():
    """Neither the reports nor the history can be written: a file lies where their folders would be."""
    blocked = BASE / "blocked"
    blocked.write_text("in the way")
    own = host.history_file, host.reports_folder
    host.history_file, host.reports_folder = lambda: blocked / "history.jsonl", lambda: blocked / "reports"
    try:
        model, recording = fresh()
        sample(model)
        chart, text, after = call("ProbeReport", report=recording, name="x", theme="light", history=True, after="what was made")
        try:
            mm.interrupt_current_processing(True)
            swept("nin", devices="cpu")
        except BaseException as error:
            ended = type(error).__name__
        return [list(chart.shape), text, after, ended]
    finally:
        mm.interrupt_current_processing(False)
        host.history_file, host.reports_folder = own


case("cancelled", cancelled)
mm.interrupt_current_processing(False)
case("kept", host.report_files)
case("cut short", cut_short)
case("read only", read_only)
