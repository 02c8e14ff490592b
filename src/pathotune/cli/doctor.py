"""`pathotune doctor`: what works here, what does not, and what to do about it."""

from __future__ import annotations

import typer

from pathotune.cli.terminal import JsonOption, QuietOption, VerboseOption, print_json, say, set_loudness

EXAMPLE = "Example: pathotune doctor --json > doctor.json"
MARKS = {"ok": "ok   ", "note": "note ", "trouble": "FIX  "}


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(epilog=EXAMPLE)(doctor)


def doctor(json: JsonOption = False, verbose: VerboseOption = 0, quiet: QuietOption = False) -> None:
    """Try readers, torch, every device, the viewer, folders and models; exit code 1 where something must be mended.

    What it prints names no slide, no person and no token, and can be passed on.
    """
    from pathotune.diagnosis import examine

    set_loudness(verbose, quiet)
    findings = []
    for finding in examine():
        findings.append(finding)
        if quiet and finding.state != "trouble":
            continue
        say(f"{MARKS[finding.state]} {finding.name}: {finding.text}")
        if finding.fix:
            say(f"        {finding.fix}")
    if json:
        print_json([finding.to_dict() for finding in findings])
    troubles = sum(finding.state == "trouble" for finding in findings)
    say(
        "Everything that is needed works."
        if not troubles
        else f"{troubles} thing{'s' if troubles > 1 else ''} must be mended.",
        quiet,
    )
    if troubles:
        raise typer.Exit(1)
