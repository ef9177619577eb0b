// Uploads a file with tus-js-client, as an app would, and prints what it was told.
//
//   node upload.mjs '{"endpoint", "token", "path", "abortAfter", …}'
//
// `…`: options of tus-js-client. `abortAfter`: the upload is aborted once so many bytes were sent, and resumed by a new one from what was remembered.
import { randomUUID } from 'node:crypto'
import fs from 'node:fs'
import { PassThrough } from 'node:stream'
import * as tus from 'tus-js-client'

const { endpoint, token, path, abortAfter = null, ...options } = JSON.parse(process.argv[2])
const urlStorage = new tus.FileUrlStorage(`${path}.urls`)
const key = randomUUID()
const told = { methods: [], offsets: [], mediaId: null }

function upload(abortAt) {
  return new Promise((resolve, reject) => {
    const file = fs.createReadStream(path)
    // Of a file the client announces whole chunks, also for the last one, where it is not to know the length.
    const one = new tus.Upload(options.uploadLengthDeferred ? file.pipe(new PassThrough()) : file, {
      ...options,
      endpoint,
      urlStorage,
      storeFingerprintForResuming: true,
      removeFingerprintOnSuccess: true,
      retryDelays: [0, 500, 1000, 3000, 5000],
      headers: { Authorization: `Bearer ${token}`, 'Idempotency-Key': key },
      metadata: { filename: 'garden tour.bin', filetype: 'application/octet-stream', tenant_scope: 'true' },
      onAfterResponse: (request, response) => {
        told.methods.push(request.getMethod())
        told.mediaId = response.getHeader('Upload-Media-Id') ?? told.mediaId
      },
      onChunkComplete: (_size, accepted) => {
        told.offsets.push(accepted)
        if (abortAt !== null && accepted >= abortAt) {
          one.abort().then(() => resolve(one.url))
        }
      },
      onError: reject,
      onSuccess: () => resolve(one.url),
    })
    one.findPreviousUploads().then((before) => {
      if (before.length) one.resumeFromPreviousUpload(before[0])
      one.start()
    })
  })
}

if (abortAfter !== null) await upload(abortAfter)
told.url = await upload(null)
console.log(JSON.stringify(told))
