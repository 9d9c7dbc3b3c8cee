"""The tasks that get emails out: intake -> sender -> reporter, with a janitor beside them and a supervisor above."""
