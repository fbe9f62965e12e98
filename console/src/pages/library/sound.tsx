/** A piece of music: its waveform, which is also where one listens from. */
import { useQuery } from "@tanstack/react-query";
import { useEffect, useMemo, useRef, useState, type PointerEvent } from "react";

import { getWaveform, type AssetOut } from "../../api/library";
import { Icon } from "../../components/icon";
import { clock, useTexts } from "../../i18n";
import css from "./sound.module.css";

/** So many bars are told apart; the service has up to 800 peaks. */
const BARS = 160;
const HIGH = 100;

/** The loudest of each stretch, as shares of the loudest of all. */
function barsOf(peaks: number[]): number[] {
  const count = Math.min(BARS, peaks.length);
  const top = peaks.reduce((most, peak) => Math.max(most, peak), 1);
  return Array.from({ length: count }, (_, bar) => {
    const stretch = peaks.slice(
      Math.floor((bar * peaks.length) / count),
      Math.floor(((bar + 1) * peaks.length) / count),
    );
    return Math.max(...stretch, 0) / top;
  });
}

export function Sound({ asset }: { asset: AssetOut }) {
  const { t } = useTexts();
  const audio = useRef<HTMLAudioElement>(null);
  const [at, setAt] = useState(0);
  const [playing, setPlaying] = useState(false);
  const [failed, setFailed] = useState(false);
  const wave = useQuery({
    queryKey: ["assets", "waveform", asset.id],
    queryFn: ({ signal }) => getWaveform(asset.id, signal),
    retry: false,
    // It is made by a job, a moment after the upload.
    refetchInterval: (query) => (query.state.data || query.state.errorUpdateCount > 10 ? false : 2000),
  });
  const length = wave.data?.duration_seconds ?? asset.duration_seconds ?? 0;
  const path = useMemo(() => {
    const bars = barsOf(wave.data?.peaks ?? []);
    return bars
      .map((share, x) => `M${x + 0.5} ${HIGH / 2 - (share * HIGH) / 2.1}V${HIGH / 2 + (share * HIGH) / 2.1}`)
      .join("");
  }, [wave.data]);
  const wide = Math.min(BARS, wave.data?.peaks.length ?? 0);
  const share = length ? Math.min(at / length, 1) : 0;

  // `timeupdate` comes four times a second; the line moves with the sound.
  useEffect(() => {
    if (!playing) return;
    let frame = requestAnimationFrame(function follow() {
      setAt(audio.current?.currentTime ?? 0);
      frame = requestAnimationFrame(follow);
    });
    return () => cancelAnimationFrame(frame);
  }, [playing]);

  const seek = (to: number) => {
    if (audio.current) audio.current.currentTime = to;
    setAt(to);
  };
  const point = (event: PointerEvent<SVGSVGElement>) => {
    const place = event.currentTarget.getBoundingClientRect();
    seek(Math.min(Math.max((event.clientX - place.left) / place.width, 0), 1) * length);
  };
  const toggle = () => {
    if (playing) audio.current?.pause();
    else void audio.current?.play().catch(() => setFailed(true));
  };
  return (
    <div className={css.sound} data-type="bgm">
      <audio
        ref={audio}
        src={asset.url}
        preload="metadata"
        onTimeUpdate={(event) => setAt(event.currentTarget.currentTime)}
        onPlay={() => setPlaying(true)}
        onPause={() => setPlaying(false)}
        onEnded={() => setPlaying(false)}
        onError={() => setFailed(true)}
      />
      {wide ? (
        <svg
          className={css.waveform}
          viewBox={`0 0 ${wide} ${HIGH}`}
          preserveAspectRatio="none"
          aria-hidden="true"
          data-peaks={wave.data?.peaks.length}
          onPointerDown={(event) => {
            event.currentTarget.setPointerCapture(event.pointerId);
            point(event);
          }}
          onPointerMove={(event) => {
            if (event.buttons & 1) point(event);
          }}
        >
          <clipPath id="played">
            <rect x="0" y="0" width={wide * share} height={HIGH} />
          </clipPath>
          <path d={path} className={css.wave} />
          <path d={path} className={`${css.wave} ${css.played}`} clipPath="url(#played)" />
        </svg>
      ) : (
        <p className={`${css.waveform} dim`}>{t.detail.noWaveform}</p>
      )}
      {failed ? <p className="notice bad">{t.detail.previewFailed}</p> : null}
      <div className="row">
        <button type="button" className="primary" onClick={toggle}>
          <Icon of={playing ? "pause" : "play"} size={16} /> {playing ? t.detail.pause : t.detail.play}
        </button>
        <input
          type="range"
          min={0}
          max={Math.max(length, 0.1)}
          step={0.1}
          value={at}
          aria-label={t.detail.seek}
          aria-valuetext={`${clock(at)} / ${clock(length)}`}
          onChange={(event) => seek(Number(event.target.value))}
        />
        <span className={`dim ${css.time}`}>
          {clock(at)} / {clock(length)}
        </span>
      </div>
    </div>
  );
}
