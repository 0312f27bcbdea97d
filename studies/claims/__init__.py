"""The claims of the paper's abstract (arXiv 2312.05361), measured on trained runs: a file a claim.

A claim's file reads in the order question, measure, controls, row: its docstring says what the paper claims,
`TABLE` what is measured, and `measure` returns rows, each made by `scores.judge`. The measurements are this
project's operational definitions of the claims, not reproductions of the paper's figures. From the bottom to
the top:

    statistics, figures     arithmetic and pictures, of arrays alone
    scores                  scores with intervals; the rules of judgement
    scenes, sample          boards and what is on them; masked boards with the labels of their cells
    networks                a run as the measurements use it: recorded and edited, or speaking
    readouts, swaps         the two methods: linear read-outs; boards that differ in one object
    ceiling                 what can be known at all, beside which the claims stand
    decodability, generalisation, convergence, manipulation, composition, words, steering      a claim each
    emergence               the course of a run: the same measurements at every checkpoint
    report                  verdicts, tables and figures in a folder

Axis letters: n boards, T cells, V tokens, D width of a stage, F features, m objects, c cells that may be
edited, C classes, N cells chosen from boards, R bootstrap draws, S words of a sentence, K words of the
codebook. W (R + 1, n) says how often each board counts, in the measurement and in each draw.
"""
