/** One file in the grid. */
import { memo, useState } from "react";

import type { Card } from "../../api/library";
import { Icon } from "../../components/icon";
import { bytes, clock, useTexts } from "../../i18n";
import { termClass } from "./words";
import css from "./card.module.css";

export const CardView = memo(function CardView({
  card,
  place,
  stop,
  onOpen,
}: {
  card: Card;
  place: number;
  /** Whether the Tab key stops here. */
  stop: boolean;
  onOpen: (id: string) => void;
}) {
  const { t } = useTexts();
  const [broken, setBroken] = useState<string | null>(null);
  const about = card.triangles ? `${measure(card)} · ${t.library.triangles(card.triangles)}` : measure(card);
  const commercial = (t.assets.short as Record<string, string>)[card.commercial ?? ""];
  const hidden = card.visibility === "private";
  const pictured = card.thumbnail && broken !== card.thumbnail && card.status !== "missing";
  // What is drawn for those who see, in words for those who hear. Few elements: a hundred cards come into sight at once.
  const heard = [t.kinds[card.category], hidden ? t.library.private : "", card.warning ? t.library.warning : ""];
  return (
    <button
      type="button"
      className={css.card}
      tabIndex={stop ? 0 : -1}
      data-place={place}
      data-id={card.id}
      data-key={card.s3Key}
      data-type={card.category}
      onClick={() => onOpen(card.id)}
    >
      <span className={css.name}>{card.name}</span>
      <span className={hidden ? `${css.about} ${css.lock}` : css.about} title={hidden ? t.library.private : undefined}>
        {about}
        <span className="visually-hidden">, {heard.filter(Boolean).join(", ")}</span>
      </span>
      <span className={css.picture}>
        {pictured ? (
          <img
            src={card.thumbnail ?? ""}
            alt=""
            loading="lazy"
            decoding="async"
            onError={() => setBroken(card.thumbnail)}
          />
        ) : (
          <Icon of={card.category} size={56} />
        )}
        {card.status === "ready" ? null : <span className={`badge ${card.status}`}>{t.states[card.status]}</span>}
        {commercial && card.status === "ready" ? (
          <span className={`badge ${termClass("commercial", card.commercial)}`}>{commercial}</span>
        ) : null}
        {card.warning ? (
          <span className="badge warning" title={t.library.warning}>
            <Icon of="warning" size={14} />
          </span>
        ) : null}
      </span>
    </button>
  );
});

function measure(card: Card): string {
  return card.duration ? clock(card.duration) : bytes(card.size);
}
