"""Golden prompts: asked at temperature 0 all through a run, by family; some have a known answer."""

from __future__ import annotations

from dataclasses import dataclass

MAX_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Golden:
    """One prompt; `answer`, where there is one, must be in what is said."""

    family: str
    text: str
    answer: str = ""


PROMPTS = (
    Golden("english", "Explain in one sentence what a load balancer does."),
    Golden("chinese", "用一句话说明负载均衡器的作用。"),
    Golden("japanese", "ロードバランサーの役割を一文で説明してください。"),
    Golden("korean", "로드 밸런서의 역할을 한 문장으로 설명해 주세요."),
    Golden("code", "# Python\ndef mean(values):\n    return"),
    Golden("arithmetic", "17 + 25 =", "42"),
    Golden("arithmetic", "104 + 9 =", "113"),
    Golden("arithmetic", "350 + 350 =", "700"),
    Golden("facts", "The capital of France is", "Paris"),
    Golden("facts", "中国的首都是", "北京"),
    Golden("facts", "日本の首都は", "東京"),
    Golden("facts", "대한민국의 수도는", "서울"),
)
