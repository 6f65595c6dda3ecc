"""MLflow: tracker, journal and recorder process, the store, seed groups, the model registry, plots of runs.

Importing it sets MLflow's environment variables first, so that an unreachable store fails in seconds.
May import the packages below it, but no command, sweep or report.
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

# MLflow would log the traceback of each error that it then raises.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
