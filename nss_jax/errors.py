"""What the command answers in one line instead of a traceback."""


class UserError(ValueError):
  """What was given cannot be used: one line, and exit code 2."""


class ConfigError(UserError):
  """A field of the config with a value that is not accepted."""
