/** A room as its viewers see it: the host's picture and sound, and nothing to steer. */
import { useParams } from "@tanstack/react-router";
import { useEffect, useMemo, useRef, useState } from "react";

import { invitationIn, invite, joinToWatch } from "../../api/watch";
import { useSession } from "../../api/session";
import { useTellError, useToast } from "../../components/toasts";
import { useTexts } from "../../i18n";
import { problemText } from "../../i18n/problems";
import { watchTexts } from "../../i18n/watch";
import type { Seen, Viewer } from "../../live/viewer";
import { SignInByLink } from "../../shell/shell";
import css from "./watch-page.module.css";

export function WatchPage() {
  const { t, language } = useTexts();
  const w = watchTexts[language];
  const { room } = useParams({ from: "/watch/$room" });
  const session = useSession();
  const invitation = useMemo(() => invitationIn(location.hash), []);
  const known = Boolean(session.data?.user_id);
  const [mayInvite, setMayInvite] = useState(false);
  useEffect(() => {
    document.title = `${w.title(room)} · ${t.brand}`;
  }, [w, t, room]);
  if (session.isPending && !invitation) return <p className="dim">{t.loading}</p>;
  return (
    <div className={css.watch}>
      <div className="page-head">
        <h1>{w.title(room)}</h1>
        {mayInvite && !invitation ? <Invite room={room} /> : null}
      </div>
      {known || invitation ? (
        <Picture key={room} room={room} invitation={invitation} onLetIn={setMayInvite} />
      ) : (
        <Refused title={w.invitedOnly} more={w.invitedMore} signIn />
      )}
    </div>
  );
}

function Refused({ title, more, signIn }: { title: string; more: string; signIn: boolean }) {
  const session = useSession().data;
  return (
    <section className="empty" data-refused>
      <h2>{title}</h2>
      <p>{more}</p>
      {signIn && session?.dev_sign_in && !session.user_id ? <SignInByLink /> : null}
    </section>
  );
}

function Picture({
  room,
  invitation,
  onLetIn,
}: {
  room: string;
  invitation: string | null;
  /** Who is let in without an invitation may make one. */
  onLetIn: (letIn: boolean) => void;
}) {
  const { t, language } = useTexts();
  const w = watchTexts[language];
  const video = useRef<HTMLVideoElement>(null);
  const sound = useRef<HTMLAudioElement>(null);
  const box = useRef<HTMLDivElement>(null);
  const viewer = useRef<Viewer | null>(null);
  const [seen, setSeen] = useState<Seen>({ state: "joining", blocked: false, error: null });
  const [muted, setMuted] = useState(false);

  useEffect(() => {
    let over = false;
    void import("../../live/viewer").then(({ Viewer: Made }) => {
      if (over || !video.current || !sound.current) return;
      viewer.current = new Made(() => joinToWatch(room, invitation), video.current, sound.current, setSeen);
    });
    return () => {
      over = true;
      viewer.current?.dispose();
      viewer.current = null;
    };
  }, [room, invitation]);

  const { state, error } = seen;
  const letIn = !["joining", "failed", "refused"].includes(state);
  useEffect(() => onLetIn(letIn), [letIn, onLetIn]);
  if (state === "refused") {
    const expired = error?.code === "invitation_invalid";
    return (
      <Refused
        title={expired ? w.expired : w.invitedOnly}
        more={expired ? w.expiredMore : w.invitedMore}
        signIn={!expired}
      />
    );
  }
  const said: Partial<Record<Seen["state"], [string, string?]>> = {
    joining: [w.joining],
    waiting: [w.waiting, w.waitingMore],
    paused: [w.paused],
    sound: [w.onlySound],
    reconnecting: [w.reconnecting],
    closed: [w.closed, w.closedMore],
    elsewhere: [w.elsewhere],
    removed: [w.removed],
    failed: [w.failed, error ? problemText(error, t) : t.stage.roomUnreachable],
  };
  const [title, more] = said[state] ?? [];
  const playing = state === "live" || state === "paused" || state === "sound";
  return (
    <section className={`panel ${css.panel}`} data-state={state} data-blocked={seen.blocked}>
      <div className={`stage-box wide ${css.box}`} ref={box}>
        <video
          ref={video}
          playsInline
          autoPlay
          muted
          aria-label={w.title(room)}
          hidden={state !== "live" && state !== "reconnecting"}
        />
        <audio ref={sound} autoPlay muted={muted} />
        <div className={css.said} role="status">
          {title ? (
            <p>
              <b>{title}</b>
              {more ? <span>{more}</span> : null}
            </p>
          ) : null}
        </div>
        {playing && seen.blocked ? (
          <button
            type="button"
            className={`primary big ${css.unblock}`}
            onClick={() => void viewer.current?.allowSound()}
          >
            {w.soundOn}
          </button>
        ) : null}
      </div>
      <div className="row">
        {state === "live" ? <span className="state live">{w.live}</span> : null}
        {state === "closed" || state === "elsewhere" ? (
          <button type="button" className="primary" onClick={() => viewer.current?.again()}>
            {w.again}
          </button>
        ) : null}
        {playing ? (
          <>
            <button type="button" aria-pressed={muted} onClick={() => setMuted(!muted)}>
              {w.muted}
            </button>
            <button type="button" onClick={() => void box.current?.requestFullscreen().catch(() => undefined)}>
              {w.full}
            </button>
          </>
        ) : null}
        <span className="grow" />
        <span className="dim">{w.viewer}</span>
      </div>
    </section>
  );
}

/** For the room's owner: others have no way in but this link. */
function Invite({ room }: { room: string }) {
  const { language } = useTexts();
  const w = watchTexts[language];
  const tell = useToast();
  const tellError = useTellError();
  const [link, setLink] = useState<string | null>(null);
  const make = async () => {
    try {
      const made = await invite(room);
      // Not every browser lets a page write there; the link is shown to be copied by hand, too.
      const copied = await navigator.clipboard.writeText(made).then(
        () => true,
        () => false,
      );
      if (copied) tell(`${w.copied} ${w.inviteHint}`);
      setLink(made);
    } catch (error) {
      tellError(error);
    }
  };
  return (
    <>
      <button type="button" onClick={() => void make()}>
        {w.invite}
      </button>
      {link ? (
        <label className={`field ${css.link}`}>
          <span className="visually-hidden">{w.inviteBy}</span>
          <input readOnly value={link} aria-label={w.inviteBy} onFocus={(event) => event.target.select()} />
          <small>{w.inviteHint}</small>
        </label>
      ) : null}
    </>
  );
}
