"""What an operator asks of the machine's cryptography: `edgegw crypto self-test`."""

from __future__ import annotations

import click
import msgspec

from edgegw.commands import ExitCode, json_option, print_json
from edgegw.sm.known_answers import Answer
from edgegw.sm.rates import Openssl, Rate


class Report(msgspec.Struct, frozen=True):
    """What `edgegw crypto self-test --json` prints."""

    passed: bool
    """Whether every answer is right."""
    libraries: dict[str, str]
    """The version of libcrypto (with its file), of hashlib's OpenSSL and of cryptography with its OpenSSL."""
    answers: list[Answer]
    """One for each known answer, in the order of the table above."""
    openssl: Openssl
    """The command whose speed is measured."""
    rates: list[Rate]
    """How fast it is; empty after a wrong answer and with --no-rates."""


@click.group()
def crypto() -> None:
    """Ask what this machine's SM cryptography computes.

    \b
    edgegw crypto self-test
    edgegw crypto self-test --json
    """


@crypto.command("self-test")
@json_option
@click.option(
    "--no-rates", is_flag=True, help="Ask for the known answers only: milliseconds instead of 12 s."
)
@click.pass_context
def self_test(ctx: click.Context, as_json: bool, no_rates: bool) -> None:
    """Ask for every known answer of SM2, SM3 and SM4-GCM, and measure their speed beside `openssl speed`.

    Ends with exit code 1 if one answer is wrong or missing. Box, hub and mirror ask for the same answers when
    they start, and do not start then.

    Example: edgegw crypto self-test --json
    """
    from edgegw.sm import known_answers, rates

    answers = known_answers.answers()
    passed = not any(answer.problem for answer in answers)
    program = rates.openssl()
    # What computes wrongly is not worth a figure.
    measured = rates.rates(program.program) if passed and not no_rates else []
    report = Report(passed, known_answers.libraries(), answers, program, measured)
    if as_json:
        print_json(report)
    else:
        for line in lines_of(report):
            click.echo(line)
    if not passed:
        ctx.exit(ExitCode.FOUND)


def lines_of(report: Report) -> list[str]:
    """A report for a person."""
    lines = [f"{name:<13}{version}" for name, version in report.libraries.items()]
    lines += [f"{'openssl':<13}{report.openssl.version or 'there is no such command here'}", ""]
    for answer in report.answers:
        lines.append(f"{'WRONG' if answer.problem else 'right'}  {answer.name:<15} {answer.question}")
        if answer.problem:
            lines.append(f"       {answer.library}: {answer.problem}")
    if report.rates:
        lines += ["", f"{'per second of CPU':<28}{'here':>14}{'openssl speed':>16}{'ratio':>8}"]
    for rate in report.rates:
        theirs = f"{rate.openssl_per_second:>16,.0f}" if rate.openssl_per_second else f"{'-':>16}"
        ratio = f"{rate.ratio:>8.2f}" if rate.ratio else f"{'-':>8}  {rate.note}"
        lines.append(f"{rate.name + ', ' + rate.unit:<28}{rate.per_second:>14,.0f}{theirs}{ratio}")
    return lines
