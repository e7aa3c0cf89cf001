"""Evaluation: samples in, a run folder out, and figures, slices and exports from it.

    readers      what people have -> Sample                    `open_samples(spec, format=..)`
    run          both models over the samples                  `run(RunSettings)`: resumable, over several processes
    score        answers made anywhere -> figures              `score_files(samples, predictions)`
    metrics, scoring, statistics, summary                      definitions, values by row, intervals, summary.json
    runfolder    a run, opened to be looked at                 `RunFolder.open(path)`, `join`, `find_runs`
    table        its columns: filters, sorting, pages          `RunTable(run).select(Filter(..))`
    slices       figures by task, size, position, tag, ..      `slice_figures(table, aspect)`
    notes, archive, export, report                             what people note, and what they take along

Knows no pages. The heavy parts (torch, datasets, pyarrow) are imported where they are needed.
"""
