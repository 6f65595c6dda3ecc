"""`python -m frostline.projects`: print the dvc.yaml of frostline's own repository."""

from frostline.projects.study import pipeline

if __name__ == "__main__":
    print(pipeline(in_project=False), end="")
