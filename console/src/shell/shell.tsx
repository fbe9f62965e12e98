/** The frame around each page: the way to the others, the language, who is signed in. */
import { Link, Outlet } from "@tanstack/react-router";

import { ApiError } from "../api/http";
import { useSession } from "../api/session";
import { useTexts } from "../i18n";
import { UploadTray } from "../uploads/tray";
import css from "./shell.module.css";

const SIGN_IN = "butai sign-in";

export function Shell() {
  const { t, language, speak } = useTexts();
  const { data: session, error } = useSession();
  const suspended = error instanceof ApiError && error.code === "user_suspended";
  return (
    <>
      <a className={css.skip} href="#content">
        {t.skip}
      </a>
      <header className={css.shell}>
        <Link to="/library" className={css.brand} activeOptions={{ exact: true }}>
          <img src={`${import.meta.env.BASE_URL}favicon.svg`} alt="" width="26" height="26" />
          {t.brand}
        </Link>
        <nav aria-label={t.brand}>
          <Link to="/library">{t.pages.library}</Link>
          <Link to="/stage">{t.pages.stage}</Link>
          {session?.operator ? <Link to="/operations">{t.pages.operations}</Link> : null}
          <a href="/docs">{t.apiDocs}</a>
        </nav>
        <div className={css.end}>
          <button
            type="button"
            className="quiet"
            lang={language === "en" ? "zh" : "en"}
            onClick={() => speak(language === "en" ? "zh" : "en")}
          >
            {t.language}
          </button>
          {session?.user_id ? (
            <span className={css.who} title={t.signedInAs(session.user_id)}>
              {session.name ?? session.user_id}
            </span>
          ) : session?.dev_sign_in ? (
            <span className={css.who} title={t.signInByLink}>
              {t.signIn} <code>{SIGN_IN}</code>
            </span>
          ) : null}
        </div>
      </header>
      <main id="content" className={css.main} tabIndex={-1}>
        {suspended ? (
          <p className="notice bad" role="alert">
            {t.suspended}
          </p>
        ) : (
          <Outlet />
        )}
      </main>
      <UploadTray />
    </>
  );
}

/** What a page shows to somebody who is nobody yet. */
export function SignedOut() {
  const { t } = useTexts();
  const session = useSession().data;
  return (
    <section className="empty">
      <h1>{t.notSignedIn}</h1>
      {session?.dev_sign_in ? <SignInByLink /> : <p>{t.signInAtStudio}</p>}
    </section>
  );
}

/** The way in on a developer's machine: a link that works once, from a terminal. */
export function SignInByLink() {
  const { t } = useTexts();
  return (
    <>
      <p>{t.signInByLink}</p>
      <p>
        <code>{SIGN_IN}</code>
      </p>
    </>
  );
}
