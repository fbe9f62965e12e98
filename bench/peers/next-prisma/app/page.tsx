export default function Page() {
  return <p>The list is at /api/s3/resources.</p>
}
