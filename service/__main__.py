"""`python -m service`: the server from the command line and the environment."""

import logging
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

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
    from service.errors import StartupError  # heavy imports only after --help
    from service.logs import configure
    from service.server import EXIT_STARTUP, serve

    configure(settings.log_level, settings.log_format)
    try:
        serve(settings)
    except StartupError as error:
        logging.getLogger("service").critical("cannot start: %s", error)
        sys.exit(EXIT_STARTUP)


def _fail(message: str) -> int:
    sys.stderr.write(message + "\n")
    return 2


if __name__ == "__main__":
    main()
