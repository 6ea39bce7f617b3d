// Token endpoints as Entra's and Google's. Every token of Entra's half is issued by `oidc-provider`, a certified
// OAuth2 server, which also judges secrets and assertions; what is ours is the shape: paths, error texts and codes,
// and the small APIs behind the tokens. Google's half checks its assertions with `jose`.
//
// usage: node idp.mjs STATE.json   (see `State` in ../idp.rs for what that holds)
import fs from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import { X509Certificate, createHash, createHmac, createPublicKey, randomBytes, randomUUID } from 'node:crypto'
import Provider, { errors } from 'oidc-provider'
import * as jose from 'jose'

const state = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'))
const JWT_BEARER = 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer'

// ---- Entra ----

const MANAGEMENT = 'https://management.azure.com'
const RESOURCES = [MANAGEMENT, 'https://management.core.windows.net', 'https://storage.azure.com', 'https://vault.azure.net']
const tenant = state.tenant
const origins = state.tls.map(({ port }) => `https://localhost:${port}`)
const issuer = `${origins[0]}/${tenant}/v2.0`
const certificates = (state.certificates ?? []).map((pem) => {
  const certificate = new X509Certificate(pem)
  const digest = (algorithm) => createHash(algorithm).update(certificate.raw).digest()
  return { pem, certificate, sha1: digest('sha1'), sha256: digest('sha256') }
})
const app = (clientId) => state.apps.find((app) => app.clientId === clientId)
// A federated application has no secret; the provider knows it by one that is ours alone.
const inner = randomBytes(24).toString('base64url')

const { privateKey } = await jose.generateKeyPair('RS256', { extractable: true })
const provider = new Provider(issuer, {
  jwks: { keys: [{ ...await jose.exportJWK(privateKey), alg: 'RS256', use: 'sig', kid: 'rig' }] },
  cookies: { keys: [inner] },
  clients: state.apps.map(({ clientId, secret, secretExpiresAt, hasCertificates }) => ({
    client_id: clientId,
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
    scope: '.default',
    ...hasCertificates
      ? {
          token_endpoint_auth_method: 'private_key_jwt',
          jwks: { keys: certificates.map(({ pem }) => createPublicKey(pem).export({ format: 'jwk' })) },
        }
      : {
          token_endpoint_auth_method: 'client_secret_post',
          client_secret: secret ?? inner,
          client_secret_expires_at: secretExpiresAt ?? 0,
        },
  })),
  clientAuthMethods: ['client_secret_post', 'private_key_jwt'],
  enabledJWA: { clientAuthSigningAlgValues: ['RS256', 'PS256'] },
  // Entra wants to be told which certificate it was.
  assertJwtClientAuthClaimsAndHeader: async (ctx, claims, header) => {
    const named = certificates.find(({ sha1, sha256 }) => header['x5t#S256'] === sha256.toString('base64url') || header.x5t === sha1.toString('base64url'))
    if (!named) throw new errors.InvalidClientAuth('no such certificate')
    if (new Date(named.certificate.validTo) < new Date()) throw new errors.InvalidClientAuth('certificate has ended')
  },
  scopes: ['.default'],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (ctx, resource) => {
        if (!RESOURCES.includes(resource)) throw new errors.InvalidTarget()
        return { scope: '.default', audience: resource, accessTokenFormat: 'jwt', accessTokenTTL: 3599, jwt: { sign: { alg: 'RS256' } } }
      },
    },
  },
  extraTokenClaims: (ctx, token) => ({ appid: token.clientId, tid: tenant }),
  routes: { token: '/oauth2/v2.0/token' },
  // `localhost` and a private network.
  fetch: () => { throw new Error('nothing is fetched') },
})
provider.proxy = true
Object.defineProperty(provider.OIDCContext.prototype, 'clientJwtAuthExpectedAudience', {
  value: () => new Set([issuer, ...origins.flatMap((origin) => [`${origin}/${tenant}/oauth2/v2.0/token`, `${origin}/${tenant}/v2.0`])]),
})
// What the provider says, in Entra's words.
provider.use(async (ctx, next) => {
  await next()
  const refused = ctx.req.refused
  if (!refused) return
  const [status, error, code, text] = entraError(ctx.req.form ?? {}, refused)
  const stamp = new Date().toISOString().slice(0, 19).replace('T', ' ') + 'Z'
  const [trace, correlation] = [randomUUID(), randomUUID()]
  ctx.status = status
  ctx.body = entraBody(error, code, text, trace, correlation, stamp)
})
provider.on('grant.error', (ctx, error) => { ctx.req.refused = error })
provider.on('server_error', (ctx, error) => console.log('server error:', error))

function entraBody(error, code, text, trace = randomUUID(), correlation = randomUUID(), stamp = new Date().toISOString().slice(0, 19).replace('T', ' ') + 'Z') {
  return {
    error,
    error_description: `AADSTS${code}: ${text} Trace ID: ${trace} Correlation ID: ${correlation} Timestamp: ${stamp}`,
    error_codes: [code],
    timestamp: stamp,
    trace_id: trace,
    correlation_id: correlation,
    error_uri: `https://login.microsoftonline.com/error?code=${code}`,
  }
}

function entraError(form, refused) {
  const detail = refused.error_detail ?? ''
  const cause = String(refused.cause ?? '')
  const { clientId } = app(form.client_id) ?? {}
  const header = () => { try { return jose.decodeProtectedHeader(form.client_assertion) } catch { return {} } }
  const claims = () => { try { return jose.decodeJwt(form.client_assertion) } catch { return {} } }
  if (refused.error === 'invalid_target') {
    return [400, 'invalid_resource', 500011, `The resource principal named ${form.resource} was not found in the tenant named Rig. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You might have sent your authentication request to the wrong tenant.`]
  }
  if (refused.error === 'unsupported_grant_type') {
    return [400, 'unsupported_grant_type', 70003, `The app requested an unsupported grant type '${form.grant_type}'.`]
  }
  if (refused.error === 'invalid_client' && form.client_assertion) {
    const { x5t, 'x5t#S256': s256 } = header()
    const thumbprint = Buffer.from(x5t ?? s256 ?? '', 'base64url').toString('hex').toUpperCase()
    const visit = `Please visit the Azure Portal, Graph Explorer or directly use MS Graph to see configured keys for app Id '${clientId}'. Review the documentation at https://docs.microsoft.com/en-us/graph/deployments to determine the corresponding service endpoint and https://docs.microsoft.com/en-us/graph/api/application-get?view=graph-rest-1.0&tabs=http to build a query request URL, such as 'https://graph.microsoft.com/beta/applications/${clientId}'].`
    if (detail.includes('certificate has ended')) {
      return [401, 'invalid_client', 700027, `The certificate with identifier used to sign the client assertion is expired on application. [Reason - The key used is expired., Thumbprint of key used by client: '${thumbprint}', ${visit}`]
    }
    if (/exp|nbf|iat|active|timestamp/i.test(cause)) {
      const { nbf, exp } = claims()
      const at = (seconds) => (seconds ? new Date(seconds * 1000) : new Date()).toISOString()
      return [401, 'invalid_client', 700024, `Client assertion is not within its valid time range. Current time: ${at()}, assertion valid from ${at(nbf)}, expiry time of assertion ${at(exp)}. Review the documentation at https://docs.microsoft.com/azure/active-directory/develop/active-directory-certificate-credentials .`]
    }
    if (detail.includes('aud')) {
      return [401, 'invalid_client', 700023, `Client assertion audience claim does not match Realm issuer. Review the documentation at https://docs.microsoft.com/azure/active-directory/develop/active-directory-certificate-credentials .`]
    }
    if (!x5t && !s256) {
      return [401, 'invalid_client', 5002738, `Invalid JWT token. 'x5t', 'x5t#S256' or 'kid' header must be present.`]
    }
    return [401, 'invalid_client', 700027, `The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: '${thumbprint}', ${visit}`]
  }
  if (refused.error === 'invalid_client' && detail.includes('expired')) {
    return [401, 'invalid_client', 7000222, `The provided client secret keys for app '${clientId}' are expired. Visit the Azure portal to create new keys for your app: https://aka.ms/NewClientSecret, or consider using certificate credentials for added security: https://aka.ms/certCreds.`]
  }
  if (refused.error === 'invalid_client') {
    return [401, 'invalid_client', 7000215, `Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '${clientId}'.`]
  }
  return [400, refused.error, 900144, `The request body must contain the following parameter: '${/parameter|required/.test(refused.error_description ?? '') ? refused.error_description : 'grant_type'}'.`]
}

async function entraToken(realm, form, request, reply) {
  const refuse = (status, error, code, text) => reply(status, entraBody(error, code, text))
  if (!/^[0-9a-f-]{36}$/i.test(realm) && !realm.includes('.')) {
    return refuse(400, 'invalid_request', 900023, `Specified tenant identifier '${realm}' is neither a valid DNS name, nor a valid external domain.`)
  }
  if (realm !== tenant && realm !== state.domain) {
    return refuse(400, 'invalid_request', 90002, `Tenant '${realm}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant.`)
  }
  for (const name of ['grant_type', 'client_id', 'scope']) {
    if (!form[name]) return refuse(400, 'invalid_request', 900144, `The request body must contain the following parameter: '${name}'.`)
  }
  const known = app(form.client_id)
  if (!known) {
    return refuse(400, 'unauthorized_client', 700016, `Application with identifier '${form.client_id}' was not found in the directory 'Rig'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant.`)
  }
  if (known.disabled) {
    return refuse(400, 'unauthorized_client', 7000112, `Application '${known.clientId}'(rig) is disabled.`)
  }
  if (known.blocked) {
    return refuse(400, 'invalid_grant', 53003, 'Access has been blocked by Conditional Access policies. The access policy does not allow token issuance.')
  }
  if (!form.client_secret && !form.client_assertion) {
    return refuse(401, 'invalid_client', 7000216, `'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.`)
  }
  if (!form.scope.endsWith('/.default')) {
    return refuse(400, 'invalid_scope', 1002012, `The provided value for scope ${form.scope} is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI).`)
  }
  if (known.federated && form.client_assertion) {
    const refused = await federated(form)
    if (refused) return refuse(401, 'invalid_client', ...refused)
    form.client_secret = inner
    delete form.client_assertion
    delete form.client_assertion_type
  }
  form.resource = form.scope.slice(0, -'/.default'.length).replace(/\/$/, '')
  form.scope = '.default'
  request.form = request.body = form
  request.url = '/oauth2/v2.0/token'
  return undefined
}

async function federated(form) {
  const { issuer, subject, audience, publicKey } = state.federation
  const see = 'Check your federated identity credential Subject, Audience and Issuer against the presented assertion. https://learn.microsoft.com/entra/workload-id/workload-identity-federation'
  if (form.client_assertion_type !== JWT_BEARER) return [7000216, `'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.`]
  let claims
  try { claims = jose.decodeJwt(form.client_assertion) } catch { return [50027, 'JWT token is invalid or malformed.'] }
  if (claims.iss !== issuer) return [700211, `No matching federated identity record found for presented assertion issuer '${claims.iss}'. ${see}`]
  if (claims.sub !== subject) return [700213, `No matching federated identity record found for presented assertion subject '${claims.sub}'. ${see}`]
  const audiences = [claims.aud ?? []].flat()
  if (!audiences.includes(audience)) return [700212, `No matching federated identity record found for presented assertion audience '${audiences.join(' ')}'. ${see}`]
  try {
    await jose.jwtVerify(form.client_assertion, await jose.importSPKI(publicKey, 'RS256'), { algorithms: ['RS256'], clockTolerance: 300 })
  } catch (error) {
    const at = (seconds) => new Date((seconds ?? 0) * 1000).toISOString()
    if (error instanceof jose.errors.JWTExpired || error.claim === 'nbf') {
      return [700024, `Client assertion is not within its valid time range. Current time: ${new Date().toISOString()}, assertion valid from ${at(claims.nbf)}, expiry time of assertion ${at(claims.exp)}. Review the documentation at https://docs.microsoft.com/azure/active-directory/develop/active-directory-certificate-credentials .`]
    }
    return [50013, 'Assertion failed signature validation. [Reason - The provided signature value did not match the expected signature value.]']
  }
  return undefined
}

// ---- Azure Resource Manager ----

async function subscription(id, query, request, reply) {
  const refuse = (status, code, message, headers) => reply(status, { error: { code, message } }, headers)
  const challenge = { 'www-authenticate': `Bearer authorization_uri="${origins[0]}/${tenant}", error="invalid_token"` }
  const [scheme, token] = (request.headers.authorization ?? '').split(' ')
  if (scheme !== 'Bearer') {
    return refuse(401, 'AuthenticationFailed', "Authentication failed. The 'Authorization' header is missing.", challenge)
  }
  let claims
  try {
    ({ payload: claims } = await jose.jwtVerify(token, privateKey.type ? await publicKey() : undefined, { issuer, algorithms: ['RS256'] }))
  } catch (error) {
    return refuse(401, 'InvalidAuthenticationToken', 'The access token is invalid.', challenge)
  }
  if (![MANAGEMENT, 'https://management.core.windows.net'].includes(claims.aud)) {
    return refuse(401, 'InvalidAuthenticationTokenAudience', `The access token has been obtained for wrong audience or resource '${claims.aud}'. It should exactly match with one of the allowed audiences 'https://management.core.windows.net/','https://management.core.windows.net','https://management.azure.com/','https://management.azure.com'.`, challenge)
  }
  if (!query.get('api-version')) {
    return refuse(400, 'MissingApiVersionParameter', 'The api-version query parameter (?api-version=) is required for all requests.')
  }
  if (!/^[0-9a-f-]{36}$/i.test(id)) {
    return refuse(400, 'InvalidSubscriptionId', `The provided subscription identifier '${id}' is malformed or invalid.`)
  }
  const found = state.subscriptions.find((subscription) => subscription.id === id)
  if (!found) return refuse(404, 'SubscriptionNotFound', `The subscription '${id}' could not be found.`)
  if (found.foreign) {
    return refuse(401, 'InvalidAuthenticationTokenTenant', `The access token is from the wrong issuer 'https://sts.windows.net/${tenant}/'. It must match the tenant 'https://sts.windows.net/00000000-0000-0000-0000-00000000000f/' associated with this subscription. Please use the authority (URL) 'https://login.windows.net/00000000-0000-0000-0000-00000000000f' to get the token. Note, if the subscription is transferred to another tenant there is no impact to the services, but information about new tenant could take time to propagate (up to an hour). If you just transferred your subscription and see this error message, please try back later.`, challenge)
  }
  if (!found.readable) {
    return refuse(403, 'AuthorizationFailed', `The client '${claims.appid}' with object id '${claims.appid}' does not have authorization to perform action 'Microsoft.Resources/subscriptions/read' over scope '/subscriptions/${id}' or the scope is invalid. If access was recently granted, please refresh your credentials.`)
  }
  return reply(200, { id: `/subscriptions/${id}`, authorizationSource: 'RoleBased', managedByTenants: [], subscriptionId: id, tenantId: tenant, displayName: 'Rig', state: 'Enabled', subscriptionPolicies: { locationPlacementId: 'Public_2014-09-01', quotaId: 'PayAsYouGo_2014-09-01', spendingLimit: 'Off' } })
}

let known
async function publicKey() {
  if (!known) {
    const { kty, n, e } = await jose.exportJWK(privateKey)
    known = await jose.importJWK({ kty, n, e }, 'RS256')
  }
  return known
}

// ---- Managed identities, over plain HTTP as they are on a machine in Azure ----

async function identityToken(query) {
  const resource = query.get('resource').replace(/\/$/, '')
  const now = Math.floor(Date.now() / 1000)
  const access_token = await new jose.SignJWT({ appid: state.identity, tid: tenant })
    .setProtectedHeader({ alg: 'RS256', typ: 'at+jwt', kid: 'rig' })
    .setIssuer(issuer).setSubject(state.identity).setAudience(resource).setIssuedAt(now).setExpirationTime(now + 86399)
    .sign(privateKey)
  return { access_token, client_id: state.identity, resource: query.get('resource'), token_type: 'Bearer', expires_on: String(now + 86399) }
}

// The Instance Metadata Service of a virtual machine.
async function imds(query, request, reply) {
  const refuse = (status, error, error_description) => reply(status, { error, error_description })
  if (request.headers['x-forwarded-for']) return refuse(400, 'invalid_request', 'X-Forwarded-For header is not allowed')
  if (request.headers.metadata !== 'true') return refuse(400, 'invalid_request', 'Required metadata header not specified')
  if (query.get('api-version') !== '2018-02-01') return refuse(400, 'invalid_request', 'Required query variable(s) \'api-version\' is missing or not supported')
  if (!query.get('resource')) return refuse(400, 'invalid_request', 'Required audience parameter not specified')
  if (!RESOURCES.includes(query.get('resource').replace(/\/$/, ''))) {
    return refuse(400, 'invalid_resource', `AADSTS500011: The resource principal named ${query.get('resource')} was not found in the tenant named Rig. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You might have sent your authentication request to the wrong tenant. Trace ID: ${randomUUID()} Correlation ID: ${randomUUID()} Timestamp: 2026-11-25 00:00:00Z`)
  }
  if (query.get('client_id') && query.get('client_id') !== state.identity) return refuse(400, 'invalid_request', 'Identity not found')
  const now = Math.floor(Date.now() / 1000)
  return reply(200, { ...await identityToken(query), expires_in: '86399', ext_expires_in: '86399', not_before: String(now) })
}

// App Service and Functions.
async function appService(query, request, reply) {
  const refuse = (statusCode, message) => reply(statusCode, { statusCode, message, correlationId: randomUUID() })
  if (request.headers['x-identity-header'] !== state.identityHeader) return refuse(401, 'Unauthorized')
  if (query.get('api-version') !== '2019-08-01') return refuse(400, 'Unsupported api-version.')
  if (!query.get('resource')) return refuse(400, 'Missing resource.')
  if (query.get('client_id') && query.get('client_id') !== state.identity) {
    return refuse(400, 'No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId.')
  }
  return reply(200, await identityToken(query))
}

// ---- Google ----

const google = state.google
const CONSTANT_AUDIENCE = 'https://oauth2.googleapis.com/token'
// What was given out: who it speaks for, for what, and until when.
const given = new Map()

function give(email, scope, lifetime = 3599) {
  const access_token = `ya29.rig-${randomBytes(24).toString('base64url')}`
  given.set(access_token, { email, scope, expires: Date.now() + lifetime * 1000 })
  return access_token
}

function bearer(request) {
  const [scheme, token] = (request.headers.authorization ?? '').split(' ')
  const found = scheme === 'Bearer' ? given.get(token) : undefined
  return found && found.expires > Date.now() ? found : undefined
}

const rpc = (code, status, message, details) => ({ error: { code, message, status, ...details && { details } } })

async function googleToken(form, reply) {
  const refuse = (status, error, error_description) => reply(status, { error, error_description })
  if (form.grant_type === 'refresh_token') {
    const { clientId, clientSecret, refreshToken, email } = google.user
    if (form.client_id !== clientId) return refuse(401, 'invalid_client', 'The OAuth client was not found.')
    if (form.client_secret !== clientSecret) return refuse(401, 'invalid_client', 'Unauthorized')
    if (form.refresh_token === google.user.tooOldToken) {
      return reply(400, { error: 'invalid_grant', error_description: 'reauth related error (invalid_rapt)', error_uri: 'https://support.google.com/a/answer/9368756', error_subtype: 'invalid_rapt' })
    }
    if (form.refresh_token !== refreshToken) return refuse(400, 'invalid_grant', 'Token has been expired or revoked.')
    const scope = 'https://www.googleapis.com/auth/cloud-platform'
    return reply(200, { access_token: give(email, scope), expires_in: 3599, scope, token_type: 'Bearer' })
  }
  if (form.grant_type !== 'urn:ietf:params:oauth:grant-type:jwt-bearer') {
    return refuse(400, 'unsupported_grant_type', `Invalid grant_type: ${form.grant_type ?? ''}`)
  }
  let claims
  try { claims = jose.decodeJwt(form.assertion ?? '') } catch { return refuse(400, 'invalid_grant', 'Invalid JWT: Failed audience check.') }
  const account = google.accounts.find(({ email }) => email === claims.iss)
  if (!account) return refuse(400, 'invalid_grant', 'Invalid grant: account not found')
  if (account.disabled) return refuse(401, 'disabled_client', 'The OAuth client was disabled.')
  // To this one the server has another time, and says so.
  const currentDate = new Date(Date.now() + (account.clockSeconds ?? 0) * 1000)
  const audience = [CONSTANT_AUDIENCE, ...origins.map((origin) => `${origin}/token`)]
  try {
    await jose.jwtVerify(form.assertion, await jose.importSPKI(account.publicKey, 'RS256'), { algorithms: ['RS256'], audience, currentDate, clockTolerance: 300, maxTokenAge: '1h' })
  } catch (error) {
    if (error instanceof jose.errors.JWSSignatureVerificationFailed) return refuse(400, 'invalid_grant', 'Invalid JWT Signature.')
    if (error.claim === 'aud') return refuse(400, 'invalid_grant', 'Invalid JWT: Failed audience check.')
    const error_description = 'Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.'
    return reply(400, { error: 'invalid_grant', error_description }, { date: currentDate.toUTCString() })
  }
  if (!claims.scope) return refuse(400, 'invalid_scope', 'Invalid OAuth scope or ID token audience provided.')
  if (claims.scope.split(' ').some((scope) => !scope.startsWith('https://www.googleapis.com/auth/'))) {
    return refuse(400, 'invalid_scope', 'Invalid OAuth scope or ID token audience provided.')
  }
  return reply(200, { access_token: give(account.email, claims.scope), expires_in: 3599, token_type: 'Bearer' })
}

// The Security Token Service: a token of somebody else's for one of Google's.
async function exchange(form, reply) {
  const refuse = (status, error, error_description) => reply(status, { error, error_description })
  const { audience, issuer, subject, publicKey, subjectAudience } = google.pool
  if (form.grant_type !== 'urn:ietf:params:oauth:grant-type:token-exchange') return refuse(400, 'invalid_request', 'Invalid value for "grant_type".')
  if (form.audience !== audience) return refuse(400, 'invalid_target', 'The target service indicated by the "audience" parameters is invalid. This might either be because the pool or provider is disabled or deleted or because it doesn\'t exist.')
  if (form.subject_token_type === 'urn:ietf:params:aws:token-type:aws4_request') return exchangeAws(form, reply, refuse)
  if (!['urn:ietf:params:oauth:token-type:jwt', 'urn:ietf:params:oauth:token-type:id_token'].includes(form.subject_token_type)) {
    return refuse(400, 'invalid_request', 'Invalid token type.')
  }
  let claims
  try { claims = jose.decodeJwt(form.subject_token ?? '') } catch { return refuse(400, 'invalid_request', 'Unable to parse the ID Token.') }
  if (claims.iss !== issuer) return refuse(400, 'invalid_grant', `The issuer in ID Token ${claims.iss} does not match the expected ones.`)
  const audiences = [claims.aud ?? []].flat()
  if (!audiences.includes(subjectAudience)) return refuse(400, 'invalid_grant', `The audience in ID Token [${audiences}] does not match the expected audience.`)
  try {
    await jose.jwtVerify(form.subject_token, await jose.importSPKI(publicKey, 'RS256'), { algorithms: ['RS256'] })
  } catch (error) {
    if (error instanceof jose.errors.JWTExpired) return refuse(400, 'invalid_grant', 'ID Token issued at some time is stale to sign-in.')
    return refuse(400, 'invalid_grant', 'Error connecting to the given credential\'s issuer, or the signature is not verified.')
  }
  if (claims.sub !== subject) return refuse(403, 'unauthorized_client', 'The given credential is rejected by the attribute condition.')
  const access_token = give(`principal://iam.googleapis.com/rig/subject/${claims.sub}`, form.scope ?? '')
  return reply(200, { access_token, issued_token_type: 'urn:ietf:params:oauth:token-type:access_token', token_type: 'Bearer', expires_in: 3599 })
}

// A request that AWS would be asked with (Signature Version 4). Google sends it there and believes the answer; here
// the signature is computed anew. The audience must have been signed as well.
function exchangeAws(form, reply, refuse) {
  const { accessKey, secretKey, arn } = google.aws
  const sha256 = (text) => createHash('sha256').update(text).digest('hex')
  const hmac = (key, text) => createHmac('sha256', key).update(text).digest()
  let url, headers, parts
  try {
    const request = JSON.parse(decodeURIComponent(form.subject_token))
    url = new URL(request.url)
    headers = Object.fromEntries(request.headers.map(({ key, value }) => [key.toLowerCase(), value]))
    parts = headers.authorization.match(/^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/sts\/aws4_request, SignedHeaders=([^,]+), Signature=(\w+)$/).slice(1)
    if (request.method !== 'POST' || url.host !== headers.host || url.protocol !== 'https:') throw new Error()
  } catch { return refuse(400, 'invalid_request', 'Invalid AWS token.') }
  const [key, day, region, names, signature] = parts
  const signed = names.split(';')
  const resource = 'x-goog-cloud-target-resource'
  if (headers[resource] !== google.pool.audience || !signed.includes(resource)) {
    return refuse(400, 'invalid_grant', `Invalid value for "${resource}".`)
  }
  const query = [...url.searchParams].map((pair) => pair.map(encodeURIComponent).join('=')).sort().join('&')
  const lines = signed.map((name) => `${name}:${headers[name]}`)
  const canonical = ['POST', url.pathname, query, ...lines, '', names, sha256('')].join('\n')
  const scope = `${day}/${region}/sts/aws4_request`
  const derived = [day, region, 'sts', 'aws4_request'].reduce(hmac, `AWS4${secretKey}`)
  const right = hmac(derived, ['AWS4-HMAC-SHA256', headers['x-amz-date'], scope, sha256(canonical)].join('\n')).toString('hex')
  if (key !== accessKey || signature !== right || url.host !== `sts.${region}.amazonaws.com`) {
    return refuse(400, 'invalid_grant', 'Received invalid AWS response of type: 403.')
  }
  const access_token = give(`principal://iam.googleapis.com/rig/subject/${arn}`, form.scope ?? '')
  return reply(200, { access_token, issued_token_type: 'urn:ietf:params:oauth:token-type:access_token', token_type: 'Bearer', expires_in: 3599 })
}

function impersonate(email, request, body, reply) {
  const caller = bearer(request)
  if (!caller) return reply(401, rpc(401, 'UNAUTHENTICATED', 'Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.'))
  const account = google.accounts.find((account) => account.email === email)
  if (!account || !account.impersonatedBy?.includes(caller.email)) {
    return reply(403, rpc(403, 'PERMISSION_DENIED', "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).", [{ '@type': 'type.googleapis.com/google.rpc.ErrorInfo', reason: 'IAM_PERMISSION_DENIED', domain: 'iam.googleapis.com', metadata: { permission: 'iam.serviceAccounts.getAccessToken' } }]))
  }
  const scope = [JSON.parse(body || '{}').scope ?? []].flat().join(' ')
  if (!scope) return reply(400, rpc(400, 'INVALID_ARGUMENT', 'Request contains an invalid argument.'))
  return reply(200, { accessToken: give(email, scope, 3600), expireTime: new Date(Date.now() + 3600_000).toISOString() })
}

function tokenInfo(token, reply) {
  const found = given.get(token)
  // A federated token is none of those that it knows.
  if (!found || found.expires <= Date.now() || found.email.startsWith('principal:')) return reply(400, { error: 'invalid_token', error_description: 'Invalid Value' })
  const left = Math.floor((found.expires - Date.now()) / 1000)
  return reply(200, { azp: '100000000000000000001', aud: '100000000000000000001', scope: found.scope, exp: String(Math.floor(found.expires / 1000)), expires_in: String(left), email: found.email, email_verified: 'true', access_type: 'online' })
}

function project(version, id, request, reply) {
  const caller = bearer(request)
  if (!caller) return reply(401, rpc(401, 'UNAUTHENTICATED', 'Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.'))
  if (!caller.scope.split(' ').some((scope) => /cloud-platform|cloudplatformprojects/.test(scope))) {
    return reply(403, rpc(403, 'PERMISSION_DENIED', 'Request had insufficient authentication scopes.', [{ '@type': 'type.googleapis.com/google.rpc.ErrorInfo', reason: 'ACCESS_TOKEN_SCOPE_INSUFFICIENT', domain: 'googleapis.com' }]))
  }
  if (id === google.switchedOff) {
    return reply(403, rpc(403, 'PERMISSION_DENIED', `Cloud Resource Manager API has not been used in project ${id} before or it is disabled. Enable it by visiting https://console.developers.google.com/apis/api/cloudresourcemanager.googleapis.com/overview?project=${id} then retry.`, [{ '@type': 'type.googleapis.com/google.rpc.ErrorInfo', reason: 'SERVICE_DISABLED', domain: 'googleapis.com', metadata: { service: 'cloudresourcemanager.googleapis.com', consumer: 'projects/100000000002' } }]))
  }
  if (id === google.deleted) return reply(200, { projectNumber: '100000000003', projectId: id, lifecycleState: 'DELETE_REQUESTED', name: 'Deleted' })
  // Google does not tell who may not see it whether it exists.
  if (id !== google.project) return reply(403, rpc(403, 'PERMISSION_DENIED', 'The caller does not have permission'))
  return version === 'v3'
    ? reply(200, { name: 'projects/100000000001', projectId: id, state: 'ACTIVE', displayName: 'Rig' })
    : reply(200, { projectNumber: '100000000001', projectId: id, lifecycleState: 'ACTIVE', name: 'Rig' })
}

// The metadata server of a machine in Google's cloud, over plain HTTP.
function googleMetadata(path, request, reply) {
  const flavour = { 'metadata-flavor': 'Google', server: 'Metadata Server for VM' }
  const text = (status, body) => reply(status, body, { ...flavour, 'content-type': 'text/plain' })
  if (request.headers['metadata-flavor'] !== 'Google') return text(403, 'Missing Metadata-Flavor:Google header.')
  const account = '/computeMetadata/v1/instance/service-accounts/default'
  switch (path) {
    case `${account}/token`: return reply(200, { access_token: give(google.accounts[0].email, 'https://www.googleapis.com/auth/cloud-platform'), expires_in: 3599, token_type: 'Bearer' }, flavour)
    case `${account}/email`: return text(200, google.accounts[0].email)
    case '/computeMetadata/v1/project/project-id': return text(200, google.project)
    default: return text(404, '404 page not found')
  }
}

// ---- The servers ----

// A line of JSON for each request: what a test may ask about, without what proves anybody's identity.
function tell(request, form, status) {
  const line = { method: request.method, path: request.url0, status, header: {}, form: {} }
  for (const name of ['user-agent', 'metadata', 'metadata-flavor', 'host', 'content-type', 'x-goog-user-project']) {
    if (request.headers[name]) line.header[name] = request.headers[name]
  }
  for (const [name, value] of Object.entries(form)) {
    if (/assertion$|subject_token$/.test(name)) {
      try { line.assertion = { header: jose.decodeProtectedHeader(value), claims: jose.decodeJwt(value) } } catch { line.assertion = null }
    } else if (!/secret|refresh_token/.test(name)) line.form[name] = value
  }
  console.log(JSON.stringify(line))
}

async function serve(isPlain, request, response) {
  const url = new URL(request.url, 'http://localhost')
  request.url0 = request.url
  let body = ''
  for await (const chunk of request) body += chunk
  const form = /form-urlencoded/.test(request.headers['content-type'] ?? '') ? Object.fromEntries(new URLSearchParams(body)) : {}
  const told = { ...form }
  response.on('finish', () => tell(request, told, response.statusCode))
  const reply = (status, value, headers = {}) => {
    const text = typeof value === 'string' ? value : JSON.stringify(value)
    response.writeHead(status, { 'content-type': 'application/json; charset=utf-8', 'cache-control': 'no-store', 'content-length': Buffer.byteLength(text), ...headers })
    response.end(text)
    return true
  }
  const { method } = request
  const path = decodeURIComponent(url.pathname)
  let match
  if (isPlain) {
    if (method === 'GET' && path === '/metadata/identity/oauth2/token') return imds(url.searchParams, request, reply)
    if (method === 'GET' && path === '/msi/token') return appService(url.searchParams, request, reply)
    if (path.startsWith('/computeMetadata/')) return googleMetadata(path, request, reply)
    return reply(404, { error: 'not_found' })
  }
  if (method === 'POST' && path === '/token') return googleToken(form, reply)
  if (method === 'POST' && path === '/v1/token') return exchange(form, reply)
  if (path === '/tokeninfo') return tokenInfo(url.searchParams.get('access_token') ?? form.access_token, reply)
  if (method === 'POST' && (match = path.match(/^\/v1\/projects\/-\/serviceAccounts\/(.+):generateAccessToken$/))) {
    return impersonate(match[1], request, body, reply)
  }
  if (method === 'GET' && (match = path.match(/^\/(v1|v3)\/projects\/([^/]+)$/))) return project(match[1], match[2], request, reply)
  if (method === 'GET' && (match = path.match(/^\/subscriptions\/([^/]*)$/))) {
    return subscription(match[1], url.searchParams, request, reply)
  }
  if (method === 'POST' && (match = path.match(/^\/([^/]+)\/oauth2\/v2\.0\/token$/))) {
    if (await entraToken(match[1], form, request, reply)) return true
    return provider.callback()(request, response)
  }
  return reply(404, { error: 'not_found', error_description: 'there is nothing here' })
}

function listen(server, port) {
  server.on('tlsClientError', (error) => console.log('complaint: TLS handshake:', error.code ?? error.message))
  server.on('secureConnection', (socket) => socket.on('error', (error) => console.log('complaint: connection:', error.code ?? error.message)))
  server.on('clientError', (error, socket) => { console.log('complaint:', error.code ?? error.message); socket.destroy() })
  return new Promise((resolve) => server.listen(port, '127.0.0.1', resolve))
}

const handler = (isPlain) => (request, response) => serve(isPlain, request, response).catch((error) => {
  console.log('complaint: failed:', error.stack)
  response.headersSent ? response.destroy() : response.writeHead(500).end()
})

for (const { port, certificate, key } of state.tls) {
  await listen(https.createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) }, handler(false)), port)
}
await listen(http.createServer(handler(true)), state.plain)
console.log('ready')
