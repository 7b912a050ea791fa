"""The style of a report: one column, readable on a phone and on a desk, by daylight and at night, and on paper."""

from __future__ import annotations

STYLE = """
:root{--ink:#1d2330;--soft:#5d6675;--grid:#e3e6eb;--paper:#fff;--card:#f6f7f9;--good:#0f7a46;--bad:#b3261e;--wait:#8a5a00;--shade:#0003}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#9aa4b2;--grid:#333a46;--paper:#14171c;--card:#1c2027;--good:#5fd39a;--bad:#ff8a80;--wait:#f0c060;--shade:#fff3}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:54rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.25;margin:.1rem 0 .6rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
.model{color:var(--soft);margin:0;font-size:.9rem;letter-spacing:.02em}
.phase{display:inline-block;font-size:.85rem;font-weight:600;padding:.15rem .6rem;border-radius:1rem;border:1px solid currentColor;vertical-align:middle;white-space:nowrap}
.phase.promoted{color:var(--good)}.phase.rolledback,.phase.aborted{color:var(--bad)}.phase.paused,.phase.inconclusive{color:var(--wait)}
.lead{font-size:1.05rem;margin:.2rem 0 1rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.6rem;margin:1.2rem 0}
.tiles div{background:var(--card);border-radius:.5rem;padding:.6rem .8rem;min-width:0}
dt{color:var(--soft);font-size:.8rem}dd{margin:0;font-size:1rem;font-weight:600;overflow-wrap:anywhere}
code,pre{font:.86em/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{background:var(--card);border-radius:.25rem;padding:.05rem .3rem;overflow-wrap:anywhere}
pre{background:var(--card);border-radius:.5rem;padding:.9rem;overflow-x:auto}
.hash{font-size:.75rem;word-break:break-all}
.steps{padding-left:1.4rem}.steps li{margin:.25rem 0}.steps span,.steps small,.note,.log time,summary{color:var(--soft)}
.steps .waiting b,.steps .skipped b{font-weight:400;color:var(--soft)}.steps .current b{color:var(--good)}.steps .stopped b{color:var(--bad)}
.note{font-size:.85rem}
figure{margin:1.6rem 0}figcaption{font-size:.9rem;margin-bottom:.4rem;color:var(--soft)}figcaption b{color:var(--ink)}
svg{display:block;width:100%;height:auto;background:var(--paper)}
.narrow{display:none}
@media(max-width:700px){.wide{display:none}.narrow{display:block}main{padding-top:1rem}h1{font-size:1.4rem}}
.scroll{overflow-x:auto;max-width:100%;background:linear-gradient(to right,var(--paper) 30%,transparent) left/2.5rem 100%,linear-gradient(to left,var(--paper) 30%,transparent) right/2.5rem 100%,linear-gradient(to right,var(--shade),transparent) left/1rem 100%,linear-gradient(to left,var(--shade),transparent) right/1rem 100%;background-repeat:no-repeat;background-attachment:local,local,scroll,scroll}
table{border-collapse:collapse;font-size:.88rem;width:100%}
th,td{padding:.35rem .9rem .35rem 0;text-align:left;border-bottom:1px solid var(--grid);vertical-align:top;white-space:nowrap}
th{color:var(--soft);font-weight:500}.number{text-align:right;font-variant-numeric:tabular-nums}
td small{color:var(--soft)}
.pass{color:var(--good)}.fail{color:var(--bad);font-weight:600}.error{color:var(--wait)}
.dot{display:inline-block;width:.7rem;height:.7rem;border-radius:.15rem;margin-right:.45rem}
.log{list-style:none;padding:0;margin:0}
.log>li{display:grid;grid-template-columns:4.6rem minmax(0,1fr);gap:.4rem;border-top:1px solid var(--grid);padding:.5rem 0}
.log p{margin:.1rem 0;overflow-wrap:anywhere}.log time{font-variant-numeric:tabular-nums;font-size:.88rem}
summary{cursor:pointer;font-size:.83rem}details table{font-size:.8rem}
@media print{.wide{display:block}.narrow{display:none}details{display:none}main{max-width:none}}
"""
"""The whole style sheet."""
