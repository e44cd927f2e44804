"""Passes: functions from graph to graph, and the pipelines that they make up.

Read in this order: `cse` (a whole pass in eight lines), `pipeline` and `pipelines`, `simplify` with
its rules, `autodiff`, `fuse`. `registry` names every pass.
"""
