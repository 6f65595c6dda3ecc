"""MLflow: the recorder's process and its journal, the store, groups of seeds, the registry, plots of runs.

Importing it sets MLflow up: a store that is unreachable is noticed in seconds, not in minutes.
May import the packages below it, never a command, a sweep or a report.
"""

import logging
import os
import sys

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
if not sys.stderr.isatty():
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

# It prints the traceback of what it then raises, at each try.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
