"""`python -m service`: the server from the command line and the environment."""

import gc
import logging
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from service.errors import EXIT_STARTUP, StartupError
from service.settings import Settings


def main() -> None:
    """Read the settings and serve; a start that fails is one line and exit status 3."""
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        sys.exit(_fail(f"settings: {problems}"))
    except SettingsError as error:
        sys.exit(_fail(f"settings: {error}"))
    try:
        sys.exit(_run(settings))
    except StartupError as error:
        logging.getLogger("service").critical("cannot start: %s", error)
        sys.exit(EXIT_STARTUP)


def _run(settings: Settings) -> int:
    gc.disable()  # until the server serves: what is loaded stays, and looking through it takes a sixth of the start
    # What is heavy is imported after --help, and not at all by a supervisor, which must stay a process of one thread.
    from service.logs import configure
    from service.workers import Share, Supervisor

    configure(settings.log_level, settings.log_format)
    share = Share.of_this_process()
    if settings.workers > 1 and share is None:
        from service.listener import address, listen

        listener = listen(settings.host, settings.port)
        logging.getLogger("service").info("listening on %s with %d workers", address(listener), settings.workers)
        return Supervisor(listener, settings.workers, settings.drain_delay).run()
    from service.server import serve

    serve(settings, share)
    return 0


def _fail(message: str) -> int:
    sys.stderr.write(message + "\n")
    return 2


if __name__ == "__main__":
    main()
