"""The claims of the paper's abstract (arXiv 2312.05361), measured on trained runs: one file per claim.

A claim's file reads question, measure, controls, row: the docstring says what is asked and how, `TABLE` what
the report says, and `measure` returns rows (`scores.Row`). The measures are this project's operational
definitions of the claims, not reproductions of the paper's figures. From the bottom to the top:

    statistics, scores      arithmetic on arrays; scores with intervals, rows, the rule of judgement
    figures                 figures of rows and curves
    scenes, sample          boards and masks; masked boards with the labels of their cells
    networks, runs          a trained network, recorded and edited; run folders and errors of a command
    readouts, swaps         the two methods: linear read-outs; boards that differ in one object
    ceiling                 the ideal observer's accuracy, beside which the claims stand
    decodability, generalisation, convergence, manipulation, composition, words, steering      one claim each
    report                  verdicts, tables and figures in a folder

Other studies may use every public name here; this one uses no other study.

Axis letters: n boards, T cells, V tokens, D width of a stage, F features, m objects, c cells that may be
edited, C classes, N cells chosen from boards, R bootstrap samples, S words of a sentence, K words of the
codebook. W (R + 1, n) says how often each board counts, in the measurement and in each bootstrap sample.
Arguments: network and fresh, the trained network and the untrained one; types, the board types in use, and
proba, their prior; masking, how boards are masked; count, boards at most; draws, bootstrap samples; bar, a
function that shows the progress over an iterable.
"""
