/** One file in the grid. */
import { memo, useState } from "react";

import type { Card } from "../../api/library";
import { Icon } from "../../components/icon";
import { bytes, clock, useTexts } from "../../i18n";
import { termClass } from "./words";

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
  const about = [card.duration ? clock(card.duration) : bytes(card.size)];
  if (card.triangles) about.push(t.library.triangles(card.triangles));
  const commercial = (t.assets.short as Record<string, string>)[card.commercial ?? ""];
  const pictured = card.thumbnail && broken !== card.thumbnail && card.status !== "missing";
  return (
    <button
      type="button"
      className="card"
      tabIndex={stop ? 0 : -1}
      data-place={place}
      data-id={card.id}
      data-key={card.s3Key}
      data-type={card.category}
      onClick={() => onOpen(card.id)}
    >
      <span className="picture">
        {pictured ? (
          <img src={card.thumbnail ?? ""} alt="" loading="lazy" decoding="async" onError={() => setBroken(card.thumbnail)} />
        ) : (
          <span className="sign">
            <Icon of={card.category} size={56} />
          </span>
        )}
        <span className="tags">
          {card.status !== "ready" ? <span className={`badge ${card.status}`}>{t.states[card.status]}</span> : null}
          {commercial ? <span className={`badge ${termClass("commercial", card.commercial)}`}>{commercial}</span> : null}
        </span>
        {card.warning ? (
          <span className="badge warning" title={t.library.warning}>
            <Icon of="warning" size={14} />
            <span className="visually-hidden">{t.library.warning}</span>
          </span>
        ) : null}
      </span>
      <span className="name">{card.name}</span>
      <span className="about">
        <span className="visually-hidden">{t.kinds[card.category]}, </span>
        <span className="said">{about.join(" · ")}</span>
        {card.visibility === "private" ? (
          <span className="lock" title={t.library.private}>
            <Icon of="lock" size={14} />
            <span className="visually-hidden">{t.library.private}</span>
          </span>
        ) : null}
      </span>
    </button>
  );
});
