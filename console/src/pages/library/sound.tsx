/** A piece of music: its waveform, which is also where one listens from. */
import { useQuery } from "@tanstack/react-query";
import { useRef, useState } from "react";

import { getWaveform, type AssetOut } from "../../api/library";
import { clock, useTexts } from "../../i18n";

const HIGH = 255;

export function Sound({ asset }: { asset: AssetOut }) {
  const { t } = useTexts();
  const audio = useRef<HTMLAudioElement>(null);
  const [at, setAt] = useState(0);
  const [playing, setPlaying] = useState(false);
  const wave = useQuery({ queryKey: ["assets", "waveform", asset.id], queryFn: ({ signal }) => getWaveform(asset.id, signal), retry: false });
  const length = wave.data?.durationSeconds ?? asset.durationSeconds ?? 0;
  const peaks = wave.data?.peaks ?? [];
  const top = Math.max(...peaks, 1);
  const path = peaks.map((peak, x) => `M${x} ${50 - (48 * peak) / Math.max(top, HIGH / 4)}V${50 + (48 * peak) / Math.max(top, HIGH / 4)}`).join("");
  return (
    <div className="sound">
      <audio
        ref={audio}
        src={asset.url}
        preload="none"
        onTimeUpdate={(event) => setAt(event.currentTarget.currentTime)}
        onPlay={() => setPlaying(true)}
        onPause={() => setPlaying(false)}
        onEnded={() => setPlaying(false)}
      />
      {peaks.length ? (
        <svg className="waveform" viewBox={`0 0 ${peaks.length} 100`} preserveAspectRatio="none" aria-hidden="true" data-peaks={peaks.length}>
          <path d={path} className="wave" />
          <rect x="0" y="0" height="100" width={length ? (peaks.length * at) / length : 0} className="played" />
        </svg>
      ) : null}
      <div className="row">
        <button type="button" className="primary" onClick={() => void (playing ? audio.current?.pause() : audio.current?.play())}>
          {playing ? t.detail.pause : t.detail.play}
        </button>
        <input
          type="range"
          min={0}
          max={Math.max(length, 0.1)}
          step="any"
          value={at}
          aria-label={t.detail.waveform}
          aria-valuetext={`${clock(at)} / ${clock(length)}`}
          onChange={(event) => {
            const to = Number(event.target.value);
            if (audio.current) audio.current.currentTime = to;
            setAt(to);
          }}
        />
        <span className="dim">
          {clock(at)} / {clock(length)}
        </span>
      </div>
    </div>
  );
}
